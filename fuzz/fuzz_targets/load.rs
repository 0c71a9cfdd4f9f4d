#![no_main]
//! See `check_load`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dandyroll_fuzz::check_load(bytes));
