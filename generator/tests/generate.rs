//! Whole generations on a real model with random weights: the chain, its ends, and the round trip.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dandyroll_generator::onnx::{self, OnnxModel, Options};
use dandyroll_generator::{
    Decoder, Finish, GenerateError, Generation, Lexicon, LogitSource, Prediction, Request, RequestError,
    Sampling, generate, score,
};
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{Mark, MasterKey, Profile, Recipe, Sha256Digest, Step, TokenId};
use dandyroll_vocab::Vocabulary;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/layouts/llama-gqa")
}

fn open() -> (OnnxModel, Lexicon) {
    onnx::open(&folder(), &Options::new()).unwrap_or_else(|error| panic!("{error}"))
}

fn prompt(lexicon: &Lexicon) -> Vec<TokenId> {
    lexicon.vocabulary().encode_ids("the end of a line").unwrap()
}

/// The same vocabulary, in which nothing ends a text.
fn endless(lexicon: &Lexicon) -> Lexicon {
    Lexicon::new(lexicon.vocabulary().clone(), None, &[])
}

fn profile(recipe: Recipe) -> Profile {
    recipe.bind(Sha256Digest([1; 32]), Some(Sha256Digest([2; 32]))).unwrap()
}

fn mark(recipe: Recipe) -> Arc<Mark> {
    Arc::new(Mark::new(&MasterKey::take(&mut [7; 32]), &profile(recipe), None).unwrap())
}

fn run(model: &mut OnnxModel, lexicon: &Lexicon, request: Request) -> Generation {
    let mut streamed = String::new();
    let mut run = generate(model, lexicon, request).unwrap();
    for progress in run.by_ref() {
        streamed.push_str(&progress.unwrap().text);
    }
    assert!(run.next().is_none());
    let generation = run.stop();
    assert_eq!(generation.text, streamed, "what was streamed is the text");
    assert_eq!(generation.counts.generated, generation.steps.len());
    generation
}

#[test]
fn the_same_seed_gives_the_same_tokens() {
    let (mut model, lexicon) = open();
    let lexicon = endless(&lexicon);
    let sampling = |seed| Sampling::new(0.8, Some(40), Some(0.95), Some(1.1), seed).unwrap();
    let mut tokens =
        |seed| run(&mut model, &lexicon, Request::new(prompt(&lexicon), sampling(seed), 40)).tokens;
    let first = tokens(1);
    assert_eq!(first.len(), 40);
    assert_eq!(tokens(1), first);
    assert_ne!(tokens(2), first);
}

#[test]
fn marked_text_is_green_and_its_records_say_so() {
    let (mut model, lexicon) = open();
    let lexicon = endless(&lexicon);
    let mark = mark(green_list::prose_v1());
    let request = |seed, mark| Request { mark, ..Request::new(prompt(&lexicon), Sampling::plain(seed), 100) };
    let (mut greens, mut scored) = (0_u32, 0_u32);
    for seed in 0..3 {
        let marked = run(&mut model, &lexicon, request(seed, Some(mark.clone())));
        assert_eq!(marked.counts.generated, 100);
        assert_eq!((marked.counts.eligible, marked.counts.marked), (98, 98));
        for (i, step) in marked.steps.iter().enumerate() {
            assert_eq!(step.marked, Some(if i < 2 { Step::ShortContext } else { Step::Marked }));
            if i >= 2 {
                let context = &marked.tokens[i - 2..i];
                let word = mark.words().word(context, step.token).unwrap();
                greens += u32::from(mark.scheme().favours(word));
                scored += 1;
            }
        }
    }
    // Null: unmarked, each token green with probability 1/4, n = 294: mean 73.5, standard deviation 7.4.
    // The bound is 8 of those. With δ = 2 about e²/(e² + 3) = 71 % of flat distributions' draws are green.
    assert!(greens > 133, "{greens} of {scored}");

    let plain = run(&mut model, &lexicon, request(0, None));
    assert!(plain.steps.iter().all(|step| step.marked.is_none()));
    assert_eq!((plain.counts.eligible, plain.counts.marked), (0, 0));
}

#[test]
fn the_threshold_compares_the_entropy_that_is_recorded() {
    let (mut model, lexicon) = open();
    let lexicon = endless(&lexicon);
    let plain = run(&mut model, &lexicon, Request::new(prompt(&lexicon), Sampling::plain(5), 100));
    let mut entropies: Vec<f64> = plain.steps.iter().map(|step| step.entropy.get()).collect();
    entropies.sort_by(f64::total_cmp);
    let median = entropies[50];
    let recipe = green_list::recipe(0.25, 3.0, 1, Some(median)).unwrap();
    let request =
        Request { mark: Some(mark(recipe)), ..Request::new(prompt(&lexicon), Sampling::plain(5), 100) };
    let marked = run(&mut model, &lexicon, request);
    for step in &marked.steps[1..] {
        let expected = if step.entropy.get() > median { Step::Marked } else { Step::LowEntropy };
        assert_eq!(step.marked, Some(expected));
    }
    let biased = marked.steps.iter().filter(|step| step.marked == Some(Step::Marked)).count();
    assert_eq!((marked.counts.eligible, marked.counts.marked), (99, biased));
    assert_eq!(marked.counts.low_entropy, 99 - biased);
    assert!((10..90).contains(&biased), "{biased}");
}

#[test]
fn scoring_agrees_with_generation() {
    let (mut model, lexicon) = open();
    let lexicon = endless(&lexicon);
    let request = Request {
        mark: Some(mark(green_list::prose_v1())),
        ..Request::new(prompt(&lexicon), Sampling::plain(9), 100)
    };
    let marked = run(&mut model, &lexicon, request);
    let prompt = prompt(&lexicon);
    let all = [prompt.clone(), marked.tokens.clone()].concat();
    let scores = score(&mut model, &all, prompt.len()).unwrap();
    assert_eq!(scores.len(), marked.steps.len());
    for (scored, step) in scores.iter().zip(&marked.steps) {
        let scored = scored.unwrap();
        assert!((scored.entropy.get() - step.entropy.get()).abs() < 1e-3);
        assert!((scored.logprob - step.logprob).abs() < 1e-3);
    }
}

#[test]
fn logprobs_are_of_the_raw_distribution() {
    let (mut model, lexicon) = open();
    let request = Request {
        mark: Some(mark(green_list::prose_v1())),
        ..Request::new(prompt(&lexicon), Sampling::new(0.5, Some(5), None, Some(1.3), 3).unwrap(), 10)
    };
    let mut run = generate(&mut model, &lexicon, request).unwrap();
    while let Some(progress) = run.next() {
        let step = progress.unwrap().step;
        let prediction = Prediction::of(run.logits()).unwrap();
        assert_eq!(prediction.logprob(run.logits(), step.token), Some(step.logprob));
        assert_eq!(prediction.entropy(), step.entropy);
    }
}

#[test]
fn every_end_has_its_name() {
    let (mut model, lexicon) = open();
    let vocabulary = lexicon.vocabulary().clone();
    let none = endless(&lexicon);
    let prompt = prompt(&lexicon);
    let greedy = |max| Request::new(prompt.clone(), Sampling::greedy(), max);

    let length = run(&mut model, &none, greedy(7));
    assert_eq!((length.finish, length.tokens.len()), (Finish::Length, 7));

    let nothing = run(&mut model, &none, greedy(0));
    assert_eq!((nothing.finish, nothing.tokens.len(), nothing.text.as_str()), (Finish::Length, 0, ""));

    let full = run(&mut model, &none, greedy(1_000_000));
    assert_eq!((full.finish, full.tokens.len()), (Finish::ContextFull, 128 - prompt.len()));
    assert_eq!(run(&mut model, &none, greedy(128 - prompt.len())).finish, Finish::Length);

    let last = length.tokens[6];
    let first = length.tokens.iter().position(|token| *token == last).unwrap();
    let ending = Lexicon::new(vocabulary.clone(), None, &[TokenId(3), last]);
    let ended = run(&mut model, &ending, greedy(50));
    assert_eq!(ended.finish, Finish::Eos);
    assert_eq!(ended.tokens, length.tokens[..first]);
    assert_eq!((ended.steps.len(), ended.steps[first].token), (first + 1, last));
    assert_eq!(ended.text, vocabulary.decode(&ended.tokens).unwrap());

    let mut cancelled = generate(&mut model, &none, greedy(50)).unwrap();
    cancelled.next().unwrap().unwrap();
    let cancelled = cancelled.stop();
    assert_eq!((cancelled.finish, cancelled.tokens.len()), (Finish::Cancelled, 1));

    let limits = model.limits();
    let mut decoder = Decoder::new(greedy(1), &none, limits).unwrap();
    decoder.accept(&vec![0.0; limits.width]).unwrap();
    assert!(matches!(decoder.accept(&vec![0.0; limits.width]), Err(GenerateError::Finished)));
    let mut decoder = Decoder::new(greedy(1), &none, limits).unwrap();
    assert!(matches!(decoder.accept(&vec![f32::NAN; limits.width]), Err(GenerateError::Logits(_))));
}

#[test]
fn stop_strings_that_span_tokens_cut_the_text_before_them() {
    let (mut model, lexicon) = open();
    let lexicon = endless(&lexicon);
    let request = |stop: &[&str]| Request {
        stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
        ..Request::new(prompt(&lexicon), Sampling::plain(11), 60)
    };
    let whole = run(&mut model, &lexicon, request(&[])).text;
    // Three characters from somewhere in the middle: most tokens here are one or two bytes.
    let places: Vec<usize> = whole.char_indices().map(|(i, _)| i).collect();
    let mut spans = 0;
    for at in (5..places.len() - 5).step_by(4) {
        let stop = &whole[places[at]..places[at + 3]];
        let cut = whole.find(stop).unwrap();
        let stopped = run(&mut model, &lexicon, request(&["never there", stop]));
        assert_eq!(stopped.finish, Finish::Stop { index: 1 });
        assert_eq!(stopped.text, whole[..cut], "{stop:?}");
        assert!(stopped.tokens.len() <= 60);
        let token_text = lexicon.vocabulary().token_bytes(*stopped.tokens.last().unwrap()).unwrap();
        spans += usize::from(token_text.len() < stop.len());
    }
    assert!(spans > 2, "{spans} stop strings spanned tokens");
    assert_eq!(run(&mut model, &lexicon, request(&["never there"])).text, whole);
}

#[test]
fn impossible_requests_are_refused_by_name() {
    let (mut model, lexicon) = open();
    let none = endless(&lexicon);
    let mut refusal =
        |lexicon: &Lexicon, request: Request| generate(&mut model, lexicon, request).map(|_| ()).unwrap_err();
    let with = |prompt: Vec<TokenId>| Request::new(prompt, Sampling::greedy(), 5);
    assert_eq!(refusal(&none, with(vec![])), RequestError::EmptyPrompt);
    for tokens in [128, 500] {
        let long = with(vec![TokenId(1); tokens]);
        assert_eq!(refusal(&none, long), RequestError::PromptTooLong { tokens, context: 128 });
    }
    let unknown = RequestError::UnknownToken { token: TokenId(300), width: 300 };
    assert_eq!(refusal(&none, with(vec![TokenId(300)])), unknown);
    let request = Request { stop: vec!["a".to_owned(), String::new()], ..with(vec![TokenId(1)]) };
    assert_eq!(refusal(&none, request), RequestError::EmptyStop);

    // This model has a token that begins a text, so an empty prompt is that token.
    let from_nothing = run(&mut model, &lexicon, with(vec![]));
    let from_bos = run(&mut model, &lexicon, with(vec![lexicon.bos().unwrap()]));
    assert_eq!(from_nothing, from_bos);
    assert_eq!(run(&mut model, &none, with(vec![TokenId(1); 127])).finish, Finish::ContextFull);
}

#[test]
fn padding_and_special_tokens() {
    let (mut model, lexicon) = open();
    // A vocabulary without its three special tokens: the model's last three logits are padding.
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(&fs::read(folder().join("tokenizer.json")).unwrap()).unwrap();
    tokenizer["added_tokens"] = serde_json::json!([]);
    let smaller = Vocabulary::from_bytes(tokenizer.to_string().as_bytes(), "smaller").unwrap();
    assert_eq!(smaller.size(), 297);
    model.check_vocabulary(297).unwrap();
    let padded = Lexicon::new(Arc::new(smaller), None, &[]);
    let hot =
        |seed| Request::new(prompt(&lexicon), Sampling::new(100.0, None, None, None, seed).unwrap(), 100);

    let (mut beyond, mut special) = (0, 0);
    for seed in 0..8 {
        let within = run(&mut model, &padded, hot(seed));
        beyond += within.tokens.iter().filter(|token| token.0 >= 297).count();
        // The entropy counts all 300: at the first step it is the same with either vocabulary.
        let unpadded = run(&mut model, &endless(&lexicon), hot(seed));
        assert_eq!(within.steps[0].entropy, unpadded.steps[0].entropy);
        let specials: Vec<_> = unpadded.tokens.iter().filter(|t| lexicon.vocabulary().special(**t)).collect();
        special += specials.len();
        assert!(!unpadded.text.contains("<|"), "special tokens are not shown");
    }
    // At temperature 100 tokens are nearly uniform: of 800, eight are expected among the three.
    assert_eq!(beyond, 0);
    assert!(special > 0);
}
