//! The cipher on rows, written once and compiled for each kind of vector.

/// Makes `words`, `stream` and `raise` of the module it stands in, which defines `V` (a vector of `LANES` words), `load`,
/// `store`, `splat`, `add`, `sub`, `xor`, `and`, `shift_right::<N>`, the four rotations of ChaCha and `lay_out`, which
/// writes the blocks of all lanes one after another. `$attribute` enables the instructions.
macro_rules! kernel {
    ($(#[$attribute:meta])*) => {
        /// See [`super::words`].
        $(#[$attribute])*
        pub(super) fn words(key: &[u32; 8], tokens: usize, rows: &[crate::Row], words: &mut [u32]) {
            let mut root = [splat(0); 8];
            for (row, word) in root.iter_mut().zip(key) {
                *row = splat(*word);
            }
            for (rows, words) in rows.chunks_exact(tokens).zip(words.chunks_mut(crate::BLOCK)) {
                let mut found = [0; crate::BLOCK];
                for part in 0..crate::BLOCK / LANES {
                    store(word(&root, rows, part), &mut found.as_chunks_mut::<LANES>().0[part]);
                }
                words.copy_from_slice(&found[..words.len()]);
            }
        }

        /// See [`crate::Instructions::stream`].
        $(#[$attribute])*
        pub(super) fn stream(key: &[u32; 8], newer: u32, older: u32, first: u32, words: &mut [u32]) {
            let key = key.map(|word| splat(word));
            let (newer, older, step) = (splat(newer), splat(older), splat(LANES_U32));
            let numbers = core::array::from_fn(|lane| crate::LANE_NUMBERS[lane]);
            let mut counter = add(splat(first), load(&numbers));
            let (whole, rest) = words.as_chunks_mut::<{ 16 * LANES }>();
            for words in whole {
                lay_out(&block(&key, counter, newer, older), words);
                counter = add(counter, step);
            }
            if !rest.is_empty() {
                let mut last = [0; 16 * LANES];
                lay_out(&block(&key, counter, newer, older), &mut last);
                rest.copy_from_slice(&last[..rest.len()]);
            }
        }

        /// See [`crate::Instructions::raise`]. The compiler makes vectors of it.
        $(#[$attribute])*
        pub(super) fn raise(words: &[u32], below: u32, by: f32, values: &mut [f32]) {
            for (value, word) in values.iter_mut().zip(words) {
                // Of all numbers −0 alone leaves every other as it is. To store only what is raised, or what was there
                // otherwise, makes masked stores, which take several times as long.
                *value += if *word < below { by } else { -0.0 };
            }
        }

        /// The words of `LANES` pairs.
        $(#[$attribute])*
        #[inline]
        fn word(root: &[V; 8], rows: &[crate::Row], part: usize) -> V {
            let context = rows.len() - 1;
            let candidate = row(rows, context, part);
            let (zero, mut key) = (splat(0), *root);
            let (mut newer, mut older) = (zero, zero);
            if context > 2 {
                // Groups of two, oldest first; of an odd number the oldest token stands alone. Each group but
                // the last replaces the key.
                let odd = context % 2;
                if odd == 1 {
                    next_key(&mut key, row(rows, 0, part), zero);
                }
                let mut oldest = odd;
                while oldest < context - 2 {
                    next_key(&mut key, row(rows, oldest + 1, part), row(rows, oldest, part));
                    oldest += 2;
                }
            }
            if context > 0 {
                newer = row(rows, context - 1, part);
            }
            if context > 1 {
                older = row(rows, context - 2, part);
            }
            select(&block(&key, shift_right::<4>(candidate), newer, older), candidate)
        }

        /// Token `token` of `LANES` pairs.
        $(#[$attribute])*
        #[inline]
        fn row(rows: &[crate::Row], token: usize, part: usize) -> V {
            load(&rows[token].as_chunks::<LANES>().0[part])
        }

        /// Replaces the keys by the first 32 bytes of their keystreams.
        $(#[$attribute])*
        #[inline]
        fn next_key(key: &mut [V; 8], newer: V, older: V) {
            let [a, b, c, d, e, f, g, h, ..] = block(key, splat(0), newer, older);
            *key = [a, b, c, d, e, f, g, h];
        }

        /// Word number `candidate mod 16` of each lane's block: a tree of choices by its four bits.
        $(#[$attribute])*
        #[inline]
        fn select(block: &[V; 16], candidate: V) -> V {
            let (by_1, by_2) = (all_or_none::<0>(candidate), all_or_none::<1>(candidate));
            let (by_4, by_8) = (all_or_none::<2>(candidate), all_or_none::<3>(candidate));
            let mut fours = [splat(0); 4];
            for (four, [a, b, c, d]) in fours.iter_mut().zip(block.as_chunks::<4>().0) {
                *four = choose(by_2, choose(by_1, *a, *b), choose(by_1, *c, *d));
            }
            let [a, b, c, d] = fours;
            choose(by_8, choose(by_4, a, b), choose(by_4, c, d))
        }

        /// All bits set where bit `N` is, none where it is not.
        $(#[$attribute])*
        #[inline]
        fn all_or_none<const N: i32>(x: V) -> V {
            sub(splat(0), and(shift_right::<N>(x), splat(1)))
        }

        $(#[$attribute])*
        #[inline]
        fn choose(by: V, zero: V, one: V) -> V {
            xor(zero, and(by, xor(zero, one)))
        }

        /// One block for each lane: `result[w]` holds word w of all of them. Counters have 32 bits: the greatest
        /// that a token's number asks for is 2²⁸ − 1.
        $(#[$attribute])*
        #[inline]
        fn block(key: &[V; 8], counter: V, newer: V, older: V) -> [V; 16] {
            let [a, b, c, d, e, f, g, h] = *key;
            let input = [
                splat(0x6170_7865), splat(0x3320_646e), splat(0x7962_2d32), splat(0x6b20_6574),
                a, b, c, d, e, f, g, h, counter, splat(0), newer, older,
            ];
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
            for (word, input) in x.iter_mut().zip(input) {
                *word = add(*word, input);
            }
            x
        }

        $(#[$attribute])*
        #[inline]
        fn quarter_round(x: &mut [V; 16], a: usize, b: usize, c: usize, d: usize) {
            x[a] = add(x[a], x[b]);
            x[d] = rotate_16(xor(x[d], x[a]));
            x[c] = add(x[c], x[d]);
            x[b] = rotate_12(xor(x[b], x[c]));
            x[a] = add(x[a], x[b]);
            x[d] = rotate_8(xor(x[d], x[a]));
            x[c] = add(x[c], x[d]);
            x[b] = rotate_7(xor(x[b], x[c]));
        }
    };
}

/// `lay_out` by way of memory, for sets without instructions of their own for it.
macro_rules! lay_out {
    ($(#[$attribute:meta])*) => {
        /// Writes the block of each lane, one after another: `block[w]` holds word w of all lanes.
        $(#[$attribute])*
        #[inline]
        fn lay_out(block: &[V; 16], words: &mut [u32; 16 * LANES]) {
            let mut rows = [[0; LANES]; 16];
            for (row, words) in rows.iter_mut().zip(block) {
                store(*words, row);
            }
            for (lane, words) in words.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                *words = rows.map(|row| row[lane]);
            }
        }
    };
}

pub(crate) use {kernel, lay_out};
