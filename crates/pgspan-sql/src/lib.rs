//! Text to plan: parse, catalog snapshot, analyze, route, fragments.
