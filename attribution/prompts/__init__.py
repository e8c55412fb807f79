"""Prompts as people write them: texts and chats, what the model reads of them, and the units of both."""
