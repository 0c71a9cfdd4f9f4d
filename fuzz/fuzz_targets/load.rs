//! See `check_load`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dandyroll_fuzz::check_load(bytes));
