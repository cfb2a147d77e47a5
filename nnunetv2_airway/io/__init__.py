"""Files that are whole or not there, images, raw data sets, parallel cases, commands and progress bars."""
