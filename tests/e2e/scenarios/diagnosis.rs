//! Acceptance of the diagnosis: ten faults, each reported everywhere in the same words within 10 s.

mod control_plane;
mod documentation;
mod load_balancers;
mod nodes;
mod surfaces;
