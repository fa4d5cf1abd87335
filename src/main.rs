#![forbid(unsafe_code)]

use std::process::ExitCode;

use tcplb::app;

fn main() -> ExitCode {
    match app::run_command_line() {
        Ok(code) => code,
        Err(error) => {
            app::print_error(&format!("tcplb: {error}"));
            ExitCode::FAILURE
        }
    }
}
