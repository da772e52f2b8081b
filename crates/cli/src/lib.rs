//! sampan: the command line.
