"""The command line: one module a family of commands. Only click is imported until work begins."""
