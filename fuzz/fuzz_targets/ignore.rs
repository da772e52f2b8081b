#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sampan_fuzz::builds::ignore(data));
