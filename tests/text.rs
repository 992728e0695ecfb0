//! Prompt embeddings as bytes: what goes in comes out, and nothing in them is trusted.

use std::collections::HashMap;

use latentflow::{Error, PromptEmbeds};
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
    assert!(refuse(&file(&[MASK], &[("prompt", "cat")])).contains("`prompt_embeds`"));
    let half = file(&[EMBEDS, MASK, NEGATIVE], &[("prompt", "cat"), ("negative_prompt", "dog")]);
    assert!(refuse(&half).contains("`negative_prompt_mask`"));
    let wide = file(&[("prompt_embeds", Dtype::F64, &[1, 4, 8])], &[("prompt", "cat")]);
    assert!(refuse(&wide).contains("F64"));
}
