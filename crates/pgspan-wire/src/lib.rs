//! The PostgreSQL protocol, both sides, as bytes and messages.
