"""libjpeg-turbo behind a C file of this project."""
