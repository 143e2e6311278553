"""The HTTP server: OpenAI's API over the engine, for people and programs; needs the extra `[serve]`."""
