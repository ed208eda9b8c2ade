"""What every part of the package needs: checks of arguments, files, consoles."""
