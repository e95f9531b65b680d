"""The outside of habitab: command line, language server and measurements. Never imports torch itself."""
