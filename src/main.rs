#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use tcplb::{app, cli::Cli};

fn main() -> ExitCode {
    match app::run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "tcplb: {error}");
            ExitCode::FAILURE
        }
    }
}
