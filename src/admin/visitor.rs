use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How many connections the admin pages have at a time: they are not to take the descriptors of those that are balanced.
const MOST: usize = 256;
/// A connection on which nothing is asked for this long is closed.
const SILENCE: Duration = Duration::from_secs(30);

/// Those who are connected to the admin pages.
///
/// Everybody gets in, since a probe that has to wait ends the process. Where there are too many, whoever has the most
/// connections loses its oldest one: so nobody can keep others out by holding many.
#[derive(Clone)]
pub struct Visitors {
    places: Arc<Semaphore>,
    present: Arc<Mutex<Present>>,
}

#[derive(Default)]
struct Present {
    /// By the order in which they came.
    visits: BTreeMap<u64, Visit>,
    next: u64,
}

struct Visit {
    source: IpAddr,
    dismissed: CancellationToken,
}

impl Default for Visitors {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST)), present: Arc::default() }
    }
}

impl Visitors {
    /// Lets somebody in, for whom somebody else may have to go.
    pub async fn admit(&self, stream: TcpStream, address: SocketAddr) -> Visitor {
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => {
                self.present().dismiss_one();
                // The semaphore is never closed.
                self.places.clone().acquire_owned().await.ok()
            }
        };
        let dismissed = CancellationToken::new();
        let number = self.present().enter(address.ip().to_canonical(), dismissed.clone());
        Visitor {
            stream,
            silence: Box::pin(sleep(SILENCE)),
            dismissed: Box::pin(dismissed.cancelled_owned()),
            number,
            visitors: self.clone(),
            _place: place,
        }
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn enter(&mut self, source: IpAddr, dismissed: CancellationToken) -> u64 {
        let number = self.next;
        self.next += 1;
        self.visits.insert(number, Visit { source, dismissed });
        number
    }

    /// The oldest connection of those who have the most; of several who have as many, of who came first.
    fn dismiss_one(&mut self) {
        let mut connections: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for visit in self.visits.values() {
            *connections.entry(visit.source).or_default() += 1;
        }
        let Some(most) = connections.values().max() else { return };
        let oldest = self.visits.iter().find(|(_, visit)| connections.get(&visit.source) == Some(most));
        let oldest = oldest.map(|(number, _)| *number);
        if let Some(visit) = oldest.and_then(|number| self.visits.remove(&number)) {
            visit.dismissed.cancel();
        }
    }
}

/// A connection to the admin pages, one of a bounded number, that ends when it says nothing, or when it has to go.
pub struct Visitor {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    dismissed: Pin<Box<WaitForCancellationFutureOwned>>,
    number: u64,
    visitors: Visitors,
    _place: Option<OwnedSemaphorePermit>,
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.visitors.present().visits.remove(&self.number);
    }
}

impl Visitor {
    /// Ready when it is to end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.dismissed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(io::ErrorKind::ConnectionAborted.into());
        }
        ready!(self.silence.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for Visitor {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                self.silence.as_mut().reset(Instant::now() + SILENCE);
                Poll::Ready(read)
            }
            Poll::Pending => self.poll_end(cx).map(Err),
        }
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending => self.poll_end(cx).map(Err),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn one_who_says_nothing_is_closed_and_gives_its_place_back() {
        let (visitors, (mut client, stream)) = (Visitors::default(), pair().await);
        let mut visitor = visitors.admit(stream, from(1)).await;
        client.write_all(b"GET").await.unwrap();
        visitor.read_exact(&mut [0; 3]).await.unwrap();
        tokio::time::pause();
        let begun = Instant::now();
        assert_eq!(visitor.read(&mut [0; 3]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= SILENCE);
        drop(visitor);
        assert_eq!(visitors.places.available_permits(), MOST);
        assert!(visitors.present().visits.is_empty());
    }

    #[tokio::test]
    async fn one_too_many_costs_those_who_have_the_most_their_oldest_connection() {
        let visitors = Visitors::default();
        let mut clients = Vec::new();
        let mut here = Vec::new();
        // The first two have one each.
        for source in [1, 2].into_iter().chain([3; MOST - 2]) {
            let (client, stream) = pair().await;
            clients.push(client);
            here.push(visitors.admit(stream, from(source)).await);
        }
        let greediest = here.remove(2);
        let leaves = tokio::spawn(async move {
            let mut greediest = greediest;
            greediest.read(&mut [0]).await.unwrap_err().kind()
        });
        let (client, stream) = pair().await;
        clients.push(client);
        let admitted = visitors.admit(stream, from(9)).await;
        assert_eq!(leaves.await.unwrap(), io::ErrorKind::ConnectionAborted);
        here.push(admitted);
        assert_eq!((visitors.present().visits.len(), visitors.places.available_permits()), (MOST, 0));
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    fn from(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 1).into()
    }
}
