//! A running gateway as a library.
