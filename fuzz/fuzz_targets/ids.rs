//! See `check_ids`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dandyroll_fuzz::check_ids(bytes));
