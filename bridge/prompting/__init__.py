"""Ideas become prompts: what a writer is asked and answers, and the writers."""
