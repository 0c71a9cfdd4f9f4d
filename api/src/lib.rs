//! What goes over the wire: request and response types, shared by the server, the load generator and clients.
