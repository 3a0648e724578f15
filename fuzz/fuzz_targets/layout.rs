#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| strapline_tests::formats::layout(bytes));
