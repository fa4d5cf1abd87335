use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that sends a preamble ahead of the first bytes written: in the same packet, since a separate packet costs
/// about as much as a message, or alone when the stream is flushed or ended first.
///
/// Reads go directly to the stream. Once the preamble is sent, its memory is freed.
#[derive(Debug)]
pub struct WithPreamble<S> {
    /// Boxed, so that it takes little room in a connection without a preamble.
    unsent: Option<Box<Unsent>>,
    stream: S,
}

#[derive(Debug)]
struct Unsent {
    bytes: Box<[u8]>,
    /// The number of bytes that are written; fewer than all.
    written: usize,
}

impl<S> WithPreamble<S> {
    pub fn new(bytes: Option<Box<[u8]>>, stream: S) -> Self {
        Self { unsent: bytes.map(|bytes| Box::new(Unsent { bytes, written: 0 })), stream }
    }

    /// The stream, once the preamble is sent.
    pub fn sent(&self) -> Option<&S> {
        self.unsent.is_none().then_some(&self.stream)
    }

    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: AsyncWrite + Unpin> WithPreamble<S> {
    /// Writes the preamble, and returns how many bytes of `behind` were written with it.
    fn poll_send(&mut self, cx: &mut Context<'_>, behind: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        while let Some(unsent) = &mut self.unsent {
            let mut slices = Vec::with_capacity(1 + behind.len());
            let left = &unsent.bytes[unsent.written..];
            slices.push(IoSlice::new(left));
            slices.extend_from_slice(behind);
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            match written.checked_sub(left.len()) {
                None => unsent.written += written,
                Some(of_behind) => {
                    self.unsent = None;
                    return Poll::Ready(Ok(of_behind));
                }
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithPreamble<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithPreamble<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_send(cx, &[IoSlice::new(bytes)]))? {
            0 => Pin::new(&mut self.stream).poll_write(cx, bytes),
            of_bytes => Poll::Ready(Ok(of_bytes)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_send(cx, slices))? {
            0 => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
            of_slices => Poll::Ready(Ok(of_slices)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx, &[]))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx, &[]))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
pub mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const HEADER: &str = "who it is";

    /// A stream that accepts a limited number of bytes at once, and records each write.
    pub struct PartialWriter {
        pub size: usize,
        pub written: Vec<String>,
    }

    impl AsyncWrite for PartialWriter {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.size);
            self.written.push(String::from_utf8(bytes[..count].to_vec()).unwrap());
            Poll::Ready(Ok(count))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.poll_write(cx, &slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.written.push("the end".into());
            Poll::Ready(Ok(()))
        }
    }

    fn preceded(size: usize) -> WithPreamble<PartialWriter> {
        WithPreamble::new(Some(HEADER.as_bytes().into()), PartialWriter { size, written: Vec::new() })
    }

    #[tokio::test]
    async fn the_header_goes_with_the_first_bytes() {
        let mut stream = preceded(1000);
        assert!(stream.sent().is_none());
        stream.write_all(b"hello").await.unwrap();
        assert!(stream.sent().is_some());
        stream.write_all(b"world").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.stream.written, [format!("{HEADER}hello"), "world".into()]);
    }

    #[tokio::test]
    async fn without_bytes_the_header_goes_alone_and_before_the_end() {
        let mut silent = preceded(1000);
        silent.flush().await.unwrap();
        silent.write_all(b"hello").await.unwrap();
        assert_eq!(silent.stream.written, [HEADER, "hello"]);

        let mut ended = preceded(1000);
        ended.shutdown().await.unwrap();
        assert_eq!(ended.stream.written, [HEADER, "the end"]);
    }

    #[tokio::test]
    async fn header_and_bytes_arrive_in_order_with_writes_of_any_size() {
        for size in 1..HEADER.len() + 10 {
            let mut stream = preceded(size);
            stream.write_all(b"hello").await.unwrap();
            assert_eq!(stream.stream.written.concat(), format!("{HEADER}hello"), "{size} at once");
        }
    }
}
