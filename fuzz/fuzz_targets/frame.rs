#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spoke_fuzz::bodies::frame(bytes));
