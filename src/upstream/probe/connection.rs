use tokio::io::{AsyncRead, AsyncWrite};

pub type ProbeConnection = Box<dyn ProbeStream>;

pub trait ProbeStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ProbeStream for S {}
