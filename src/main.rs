//! The `meshsec` program: parses its arguments, runs, returns an exit status.

fn main() {}
