// Runs before the first paint, so that a chosen theme does not flash. Everything else about it is in theme.js.
try {
  const { theme } = JSON.parse(localStorage.getItem("neolm.preferences")) ?? {};
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Nothing kept, or nothing readable: the system's theme it is.
}
