// Runs before the first paint, so that the chosen theme does not flash. The rest is in settings-panel.js.
try {
  const { theme } = JSON.parse(localStorage.getItem("neolm.preferences")) ?? {};
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // No stored preferences: the system's theme applies.
}
