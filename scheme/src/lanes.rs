//! ChaCha8 blocks side by side, in plain arrays that compilers turn into vector instructions.
//!
//! Bernstein 2008, "ChaCha, a variant of Salsa20", with a 64-bit block counter (state words 12, 13) and a
//! 64-bit stream id (14, 15), as `rand_chacha` lays it out. Tested equal to `rand_chacha` in `key.rs`.

/// How many blocks are made at once.
pub(crate) const LANES: usize = 8;

/// One lane's input: which block of which keystream.
#[derive(Clone, Copy)]
pub(crate) struct Lane {
    pub(crate) key: [u32; 8],
    pub(crate) stream: u64,
    pub(crate) counter: u64,
}

type Row = [u32; LANES];

/// A key as the eight little-endian words that enter the state.
pub(crate) fn key_words(key: &[u8; 32]) -> [u32; 8] {
    let (words, _) = key.as_chunks::<4>();
    core::array::from_fn(|i| u32::from_le_bytes(words[i]))
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[inline(always)]
fn add_xor_rotate(x: &mut [Row; 16], sum: usize, with: usize, target: usize, left: u32) {
    let with = x[with];
    for (word, with) in x[sum].iter_mut().zip(with) {
        *word = word.wrapping_add(with);
    }
    let sum = x[sum];
    for (word, sum) in x[target].iter_mut().zip(sum) {
        *word = (*word ^ sum).rotate_left(left);
    }
}

#[inline(always)]
fn quarter_round(x: &mut [Row; 16], a: usize, b: usize, c: usize, d: usize) {
    add_xor_rotate(x, a, b, d, 16);
    add_xor_rotate(x, c, d, b, 12);
    add_xor_rotate(x, a, b, d, 8);
    add_xor_rotate(x, c, d, b, 7);
}

/// One block for each lane: `result[w][l]` is word `w` of lane `l`'s block.
pub(crate) fn blocks(lanes: &[Lane; LANES]) -> [Row; 16] {
    const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
    let mut input = [[0; LANES]; 16];
    for (row, constant) in input.iter_mut().zip(CONSTANTS) {
        *row = [constant; LANES];
    }
    for (l, lane) in lanes.iter().enumerate() {
        for (w, word) in lane.key.iter().enumerate() {
            input[4 + w][l] = *word;
        }
        [input[12][l], input[13][l]] = halves(lane.counter);
        [input[14][l], input[15][l]] = halves(lane.stream);
    }
    let mut x = input;
    for _ in 0..4 {
        quarter_round(&mut x, 0, 4, 8, 12);
        quarter_round(&mut x, 1, 5, 9, 13);
        quarter_round(&mut x, 2, 6, 10, 14);
        quarter_round(&mut x, 3, 7, 11, 15);
        quarter_round(&mut x, 0, 5, 10, 15);
        quarter_round(&mut x, 1, 6, 11, 12);
        quarter_round(&mut x, 2, 7, 8, 13);
        quarter_round(&mut x, 3, 4, 9, 14);
    }
    for (row, input) in x.iter_mut().zip(&input) {
        for (word, input) in row.iter_mut().zip(input) {
            *word = word.wrapping_add(*input);
        }
    }
    x
}
