"""The passes that make and check graphs; `lame_export.plan` says in which order."""
