//! The place of the Arrow engine for large queries.
