use std::process::ExitCode;

fn main() -> ExitCode {
    annvil::cli::main()
}
