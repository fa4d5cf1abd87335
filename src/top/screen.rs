use std::{io, thread, time::Duration};

use crossterm::event::{self, Event};
use ratatui::{DefaultTerminal, Frame};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{Receiver, channel},
};

/// The interval at which the thread for events looks whether they are still needed.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The terminal in raw mode, with an alternate screen. Dropping it restores the terminal, and so does a panic.
pub struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// # Errors
    /// If the terminal cannot be changed.
    pub fn open() -> io::Result<(Self, Receiver<Event>)> {
        let screen = Self { terminal: ratatui::try_init()? };
        let (sender, events) = channel(64);
        thread::Builder::new().name("keys".into()).spawn(move || {
            while !sender.is_closed() {
                match next_event() {
                    Ok(None) => {}
                    Ok(Some(event)) => drop(sender.blocking_send(event)),
                    Err(_) => return,
                }
            }
        })?;
        Ok((screen, events))
    }

    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame)) -> io::Result<()> {
        self.terminal.draw(draw).map(drop)
    }
}

/// The next event, if one comes soon.
fn next_event() -> io::Result<Option<Event>> {
    if event::poll(POLL_INTERVAL)? { event::read().map(Some) } else { Ok(None) }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// The signals that end the display in order.
pub struct TerminationSignals([Signal; 3]);

impl TerminationSignals {
    /// # Errors
    /// If the signals cannot be handled.
    pub fn catch() -> io::Result<Self> {
        let catch = |kind| signal(kind);
        Ok(Self([catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?, catch(SignalKind::hangup())?]))
    }

    pub async fn received(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
