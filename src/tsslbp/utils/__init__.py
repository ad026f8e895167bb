"""Tools that every part uses: errors, files, settings declared as fields, random draws, the machine."""
