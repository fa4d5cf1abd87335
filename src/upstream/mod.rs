//! Live state of endpoints that outlives snapshots: counts, balancing, health, ejection, preconnected sockets.
