"""A rectangle of a JPEG by libjpeg-turbo and two C files of this project; see README.md."""
