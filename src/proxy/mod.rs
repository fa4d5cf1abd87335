//! The data plane: makes sockets and connections equal to the latest snapshot.
