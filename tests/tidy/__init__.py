"""The house rules that a linter cannot know: a tree of files, and rules about it."""
