//! Checks a configuration as a whole and reports every problem at once.
