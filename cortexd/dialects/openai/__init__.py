"""OpenAI clients on nodes that speak the same dialect: chats, completions and responses."""
