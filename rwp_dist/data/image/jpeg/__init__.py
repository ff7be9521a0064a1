"""A rectangle of a JPEG by libjpeg-turbo and three C files of this project; see README.md."""
