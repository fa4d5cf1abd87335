//! A live table of load balancers, endpoints and replicas for terminals.
//!
//! [`TopState`] decides what is shown, without a terminal; `draw` draws it.

mod draw;
mod options;
mod order;
mod print;
mod row_key;
mod screen;
mod state;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use tokio::time::{Instant, sleep, sleep_until};

use self::{
    draw::draw,
    print::{TextRows, TopDocument, text},
    screen::Screen,
    state::{Reaction, TopState},
};
pub use self::{
    options::{ReplicaSample, TopFormat, TopOptions},
    order::TopOrder,
    screen::TerminationSignals,
};
use crate::stdout;

/// The interval between two tables without a terminal.
const PRINT_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the table. `read` reads all replicas.
///
/// # Errors
/// If no replica can be read, or the terminal cannot be used.
pub async fn run<F>(options: TopOptions, read: impl Fn() -> F) -> anyhow::Result<ExitCode>
where
    F: Future<Output = anyhow::Result<Vec<ReplicaSample>>>,
{
    let mut state = TopState::new(&options);
    match options.output {
        TopFormat::Live if has_terminal() => {
            let mut termination = TerminationSignals::catch()?;
            show(&mut state, options.interval, read, &mut termination).await?;
        }
        format => print(&mut state, options.interval, read, format).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows the table until a key or a signal ends it. Without a terminal, it is printed again and again.
///
/// # Errors
/// If the terminal cannot be used.
pub async fn follow<F>(
    options: &TopOptions,
    read: impl Fn() -> F,
    termination: &mut TerminationSignals,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Vec<ReplicaSample>>>,
{
    let mut state = TopState::new(options);
    if has_terminal() {
        return show(&mut state, options.interval, read, termination).await;
    }
    stdout::print(&(options.introduction.join("\n") + "\n"))?;
    loop {
        state.observe(std::time::Instant::now(), &read().await?);
        if !stdout::print(&text(&TopDocument::new(&state), TextRows::Usual))? {
            return Ok(());
        }
        tokio::select! {
            () = sleep(PRINT_INTERVAL) => {}
            () = termination.received() => return Ok(()),
        }
    }
}

fn has_terminal() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// Prints the table once, with the rates of one interval.
async fn print<F>(
    state: &mut TopState,
    interval: Duration,
    read: impl Fn() -> F,
    format: TopFormat,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Vec<ReplicaSample>>>,
{
    state.observe(std::time::Instant::now(), &read().await?);
    sleep(interval).await;
    let samples = read().await?;
    state.observe(std::time::Instant::now(), &samples);
    let errors: Vec<&String> = samples.iter().filter_map(|sample| sample.picture.as_ref().err()).collect();
    if let (Some(first), true) = (errors.first(), errors.len() == samples.len()) {
        bail!("no replica can be read: {first}");
    }
    let document = TopDocument::new(state);
    stdout::print(&match format {
        TopFormat::Live | TopFormat::Text => text(&document, TextRows::Usual),
        TopFormat::Wide => text(&document, TextRows::All),
        TopFormat::Json => document.json(),
        TopFormat::Yaml => document.yaml()?,
    })?;
    Ok(())
}

/// Shows the table on the terminal until a key or a signal ends it.
async fn show<F>(
    state: &mut TopState,
    interval: Duration,
    read: impl Fn() -> F,
    termination: &mut TerminationSignals,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Vec<ReplicaSample>>>,
{
    // Mistakes in arguments and missing permissions are printed without a change of the terminal.
    state.observe(std::time::Instant::now(), &read().await?);
    let (mut screen, mut events) = Screen::open()?;
    loop {
        let next = Instant::now() + interval;
        let mut reading = pin!(async {
            sleep_until(next).await;
            read().await
        });
        loop {
            screen.draw(|frame| draw(frame, state))?;
            tokio::select! {
                samples = &mut reading => {
                    match samples {
                        Ok(samples) => state.observe(std::time::Instant::now(), &samples),
                        Err(error) => state.fail(&format!("{error:#}")),
                    }
                    break;
                }
                event = events.recv() => match event {
                    Some(event) => if state.handle(&event) == Reaction::End { return Ok(()) },
                    None => bail!("the terminal was closed"),
                },
                () = termination.received() => return Ok(()),
            }
        }
    }
}
