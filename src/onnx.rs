//! What an ONNX file declares: its inputs, outputs and external data, read without opening a session.
//!
//! Only the fields needed are decoded (numbers from `onnx.proto3`); nodes and weights are skipped over, so that reading
//! the signature of a graph of gigabytes takes milliseconds.

use prost::Message;

/// The element types that cross a graph's boundary here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit floating point.
    F32,
    /// 64-bit integer.
    I64,
    /// Any other type, by its number in `TensorProto.DataType`.
    Other(i32),
}

/// One input or output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, by which it is fed.
    pub name: String,
    /// Its element type.
    pub element_type: ElementType,
    /// Its dimensions; `None` where any length will do.
    pub shape: Vec<Option<usize>>,
    /// The names of its dimensions; empty where one has none.
    pub axes: Vec<String>,
}

/// The declared boundary of a graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signature {
    /// What must be fed.
    pub inputs: Vec<TensorInfo>,
    /// What comes back.
    pub outputs: Vec<TensorInfo>,
    /// Files beside the graph that hold its weights.
    pub external_data: Vec<String>,
    /// Bytes of weights in these files that are 32-bit floats.
    pub external_floats: u64,
    /// Bytes of other weights in these files, such as packed integers.
    pub external_others: u64,
}

impl Signature {
    /// Returns the signature of the ONNX model in `bytes`, or why it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let model = ModelProto::decode(bytes)
            .map_err(|e| format!("it is not an ONNX graph, or a truncated one ({e})"))?;
        let graph = model.graph.ok_or("it holds no graph (an ONNX file cut short, or none at all)")?;
        let weights: Vec<&str> = graph.initializers.iter().map(|i| i.name.as_str()).collect();
        let mut external_data: Vec<String> = graph
            .initializers
            .iter()
            .flat_map(|i| &i.external_data)
            .filter(|entry| entry.key == "location")
            .map(|entry| entry.value.clone())
            .collect();
        external_data.sort();
        external_data.dedup();
        let bytes = |float: bool| {
            let tensors = graph.initializers.iter().filter(|i| (i.data_type == FLOAT) == float);
            let lengths = tensors.flat_map(|i| &i.external_data).filter(|entry| entry.key == "length");
            lengths.filter_map(|entry| entry.value.parse::<u64>().ok()).fold(0, u64::saturating_add)
        };
        let inputs = graph.inputs.iter().filter(|i| !weights.contains(&i.name.as_str()));
        Ok(Self {
            inputs: inputs.map(tensor_info).collect::<Result<_, _>>()?,
            outputs: graph.outputs.iter().map(tensor_info).collect::<Result<_, _>>()?,
            external_floats: bytes(true),
            external_others: bytes(false),
            external_data,
        })
    }

    /// Returns the input called `name`.
    pub fn input(&self, name: &str) -> Option<&TensorInfo> {
        self.inputs.iter().find(|i| i.name == name)
    }

    /// Returns the output called `name`.
    pub fn output(&self, name: &str) -> Option<&TensorInfo> {
        self.outputs.iter().find(|o| o.name == name)
    }
}

fn tensor_info(value: &ValueInfoProto) -> Result<TensorInfo, String> {
    let tensor = value
        .r#type
        .as_ref()
        .and_then(|t| t.tensor.as_ref())
        .ok_or_else(|| format!("`{}` is not a tensor", value.name))?;
    let dims = tensor.shape.as_ref().map(|s| s.dims.as_slice()).unwrap_or_default();
    Ok(TensorInfo {
        name: value.name.clone(),
        element_type: match tensor.elem_type {
            FLOAT => ElementType::F32,
            7 => ElementType::I64,
            other => ElementType::Other(other),
        },
        shape: dims.iter().map(|d| d.value.and_then(|v| usize::try_from(v).ok())).collect(),
        axes: dims.iter().map(|d| d.param.clone().unwrap_or_default()).collect(),
    })
}

/// `TensorProto.DataType.FLOAT`.
const FLOAT: i32 = 1;

#[derive(Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
}

#[derive(Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "5")]
    initializers: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    inputs: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    outputs: Vec<ValueInfoProto>,
}

#[derive(Message)]
struct TensorProto {
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringStringEntryProto>,
}

#[derive(Message)]
struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Message)]
struct ValueInfoProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<TypeProto>,
}

#[derive(Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorTypeProto>,
}

#[derive(Message)]
struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShapeProto>,
}

#[derive(Message)]
struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    dims: Vec<DimensionProto>,
}

#[derive(Message)]
struct DimensionProto {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    param: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Vec<u8> {
        let value = |name: &str, elem_type, dims: &[i64]| ValueInfoProto {
            name: name.into(),
            r#type: Some(TypeProto {
                tensor: Some(TensorTypeProto {
                    elem_type,
                    shape: Some(TensorShapeProto {
                        dims: dims
                            .iter()
                            .map(|&d| DimensionProto {
                                value: (d >= 0).then_some(d),
                                param: (d < 0).then(|| "B".into()),
                            })
                            .collect(),
                    }),
                }),
            }),
        };
        let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
        ModelProto {
            graph: Some(GraphProto {
                initializers: vec![
                    TensorProto {
                        data_type: 1,
                        name: "w".into(),
                        external_data: vec![
                            entry("location", "a.weights"),
                            entry("offset", "0"),
                            entry("length", "8"),
                        ],
                    },
                    TensorProto {
                        data_type: 2,
                        name: "codes".into(),
                        external_data: vec![entry("location", "a.weights"), entry("length", "3")],
                    },
                ],
                inputs: vec![value("w", 1, &[2]), value("ids", 7, &[-1, 8])],
                outputs: vec![value("y", 10, &[])],
            }),
        }
        .encode_to_vec()
    }

    #[test]
    fn inputs_leave_the_weights_out_and_free_dimensions_are_none() {
        let signature = Signature::parse(&model()).unwrap();
        assert_eq!(signature.inputs.len(), 1);
        assert_eq!(
            signature.input("ids").unwrap(),
            &TensorInfo {
                name: "ids".into(),
                element_type: ElementType::I64,
                shape: vec![None, Some(8)],
                axes: vec!["B".into(), String::new()],
            }
        );
        assert_eq!(signature.output("y").unwrap().element_type, ElementType::Other(10));
        assert_eq!(signature.external_data, ["a.weights"]);
        assert_eq!((signature.external_floats, signature.external_others), (8, 3));
    }

    #[test]
    fn a_truncated_or_foreign_file_is_refused() {
        let whole = model();
        assert!(Signature::parse(&whole[..whole.len() - 3]).is_err());
        assert!(Signature::parse(b"\x89PNG\r\n").is_err());
        assert!(Signature::parse(b"").is_err());
    }
}
