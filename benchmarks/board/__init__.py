"""The board: every method, and those of other libraries, on prompts whose causes are known."""
