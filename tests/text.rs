//! Prompts to embeddings, embeddings to bytes and back; nothing in such bytes is trusted.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use latentflow::{
    Cancel, Error, ExecutionProvider, Model, Package, PromptEmbeds, RuntimeOptions, TextEncoder,
};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Returns a safetensors file with `tensors` (name, type, shape; all zero) and `metadata`.
fn file(tensors: &[(&str, Dtype, &[usize])], metadata: &[(&str, &str)]) -> Vec<u8> {
    let zeros = vec![0; 1 << 12];
    let views = tensors.iter().map(|(name, dtype, shape)| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (*name, TensorView::new(*dtype, shape.to_vec(), &zeros[..bytes]).unwrap())
    });
    let metadata: HashMap<_, _> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    safetensors::serialize(views, Some(metadata)).unwrap()
}

const EMBEDS: (&str, Dtype, &[usize]) = ("prompt_embeds", Dtype::F32, &[1, 4, 8]);
const MASK: (&str, Dtype, &[usize]) = ("prompt_mask", Dtype::I64, &[1, 4]);
const NEGATIVE: (&str, Dtype, &[usize]) = ("negative_prompt_embeds", Dtype::F32, &[1, 4, 8]);
const NEGATIVE_MASK: (&str, Dtype, &[usize]) = ("negative_prompt_mask", Dtype::I64, &[1, 4]);

#[test]
fn floats_and_integers_go_to_bytes_and_back() {
    let bytes =
        file(&[EMBEDS, MASK, NEGATIVE, NEGATIVE_MASK], &[("prompt", "雪里的猫"), ("negative_prompt", "")]);
    let first = PromptEmbeds::from_safetensors(&bytes).unwrap();
    let embeds = PromptEmbeds::from_safetensors(&first.to_safetensors().unwrap()).unwrap();
    assert_eq!((embeds.prompt(), embeds.negative_prompt()), ("雪里的猫", Some("")));
    let negative = embeds.negative().unwrap();
    for tensors in [embeds.positive(), negative] {
        assert_eq!(tensors.len(), 2);
        assert_eq!(tensors["prompt_embeds"].shape(), [1, 4, 8]);
        assert_eq!(tensors["prompt_embeds"].f32().unwrap(), [0.0; 32]);
        assert_eq!(tensors["prompt_mask"].i64().unwrap(), [0; 4]);
    }
    assert!(embeds.notices().is_empty());
}

#[test]
fn without_a_negative_prompt_there_are_no_negative_tensors() {
    let embeds = PromptEmbeds::from_safetensors(&file(&[EMBEDS], &[("prompt", "cat")])).unwrap();
    assert!(embeds.negative().is_none() && embeds.negative_prompt().is_none());
}

#[test]
fn bytes_that_are_no_prompt_embeddings_are_refused() {
    let refuse = |bytes: &[u8]| match PromptEmbeds::from_safetensors(bytes) {
        Err(error @ Error::Shape { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let whole = file(&[EMBEDS], &[("prompt", "cat")]);
    for length in 0..whole.len() {
        refuse(&whole[..length]);
    }
    assert!(refuse(b"{\"this is\": \"something else\"}").contains("textsrc"));
    assert!(refuse(&file(&[EMBEDS], &[])).contains("`prompt`"));
    assert!(refuse(&file(&[], &[("prompt", "cat")])).contains("no tensor"));
    let half = file(&[EMBEDS, MASK, NEGATIVE], &[("prompt", "cat"), ("negative_prompt", "dog")]);
    assert!(refuse(&half).contains("`negative_prompt_mask`"));
    let wide = file(&[("prompt_embeds", Dtype::F64, &[1, 4, 8])], &[("prompt", "cat")]);
    assert!(refuse(&wide).contains("F64"));
}

fn encoder(package: &str) -> TextEncoder {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/packages").join(package);
    let options =
        RuntimeOptions { execution_provider: ExecutionProvider::Cpu, num_threads: 1, ..Default::default() };
    let package = Arc::new(Package::open(&folder).unwrap());
    TextEncoder::new(Arc::new(Model::new(package, options))).unwrap()
}

#[test]
fn a_prompt_becomes_embeddings_of_its_tokens() {
    let encoder = encoder("tiny-stream");
    assert_eq!(encoder.provider(), None, "opened with the first prompt");
    let embeds = encoder.encode("  a red\n cat", None, &Cancel::new()).unwrap();
    assert_eq!(encoder.provider(), Some(ExecutionProvider::Cpu));
    assert_eq!(embeds.prompt(), "  a red\n cat");
    assert!(embeds.negative().is_none() && embeds.notices().is_empty());
    let tensors = embeds.positive();
    let tensor = tensors["prompt_embeds"].view().unwrap();
    assert_eq!(tensor.shape(), [1, 8, 4]);
    // [BOS] a red cat, then padding: the fixture's embeddings are its words' colours.
    let rows: Vec<Vec<f32>> = tensor.rows().into_iter().map(|row| row.to_vec()).collect();
    assert_eq!(rows[..4], [[0.0, 0.0, 0.0, 0.0], [0.0; 4], [6.0, -4.0, -4.0, 0.0], [1.0, 0.0, -1.0, 1.0]]);
    assert!(rows[4..].iter().all(|row| row == &[9.0; 4]));

    let again = PromptEmbeds::from_safetensors(&embeds.to_safetensors().unwrap()).unwrap();
    assert_eq!(again.positive()["prompt_embeds"].view().unwrap(), tensor);
    assert_eq!(again.positive().len(), tensors.len());
}

#[test]
fn a_negative_prompt_has_tensors_of_the_same_names() {
    let embeds = encoder("tiny-clip").encode("红色的猫", Some("blue dog"), &Cancel::new()).unwrap();
    let negative = embeds.negative().unwrap();
    assert!(embeds.positive().keys().all(|name| negative.contains_key(name)));
    assert_ne!(embeds.positive()["prompt_embeds"].f32().unwrap(), negative["prompt_embeds"].f32().unwrap());
    let again = PromptEmbeds::from_safetensors(&embeds.to_safetensors().unwrap()).unwrap();
    assert_eq!(
        again.negative().unwrap()["prompt_embeds"].f32().unwrap(),
        negative["prompt_embeds"].f32().unwrap()
    );
    assert_eq!(again.negative_prompt(), Some("blue dog"));
}

#[test]
fn notices_name_the_prompt_that_they_are_about() {
    let encoder = encoder("tiny-clip");
    let notices = |prompt: &str, negative: Option<&str>| -> Vec<String> {
        let embeds = encoder.encode(prompt, negative, &Cancel::new()).unwrap();
        assert_eq!(embeds.negative().is_some(), negative.is_some());
        embeds.notices().iter().map(ToString::to_string).collect()
    };
    assert_eq!(notices("", Some("")), [""; 0]);
    let said = notices("A Unicorn，雪里的独角兽", Some("cat cat cat cat cat cat cat dog bird"));
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].contains("`prompt`") && said[0].contains("`Unicorn`"), "{said:?}");
    assert!(said[1].contains("10 tokens and was cut to 8; lost is `角兽`"), "{said:?}");
    assert!(
        said[2].contains("`negative-prompt` has 10 tokens") && said[2].contains("`dog bird`"),
        "{said:?}"
    );
    // The negative prompt is encoded once, so that there is nothing new to say of it.
    assert_eq!(notices("a cat", Some("cat cat cat cat cat cat cat dog bird")), [""; 0]);
    assert_eq!(notices("a cat", Some("unicorn")).len(), 1);
}

#[test]
fn a_cancelled_token_encodes_nothing() {
    let (encoder, cancel) = (encoder("tiny-clip"), Cancel::new());
    cancel.cancel();
    assert!(matches!(encoder.encode("a cat", None, &cancel), Err(Error::Cancelled)));
    cancel.reset();
    encoder.encode("a cat", None, &cancel).unwrap();
}
