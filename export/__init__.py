"""Turn a checkpoint into a quantised ONNX student folder.

Needs the extra `export`. Imports `training` and `service.student`. `pipeline` calls the modules in the order of the
rows; it returns to those in brackets.

| module | step |
|---|---|
| `onnx` | parse the flags into `Options` |
| `pipeline` | load the checkpoint |
| `data` | read labelled text, candidates for golden sentences, out-of-scope text |
| `folder` | make a temporary folder, renamed at the end |
| `trimming` | with `--locales`: trim the vocabulary |
| `graph` | export the fp32 graph |
| `quantization` | quantise it to int8 |
| `latency` | choose the faster kernels |
| `quality` | compare fp32 with PyTorch |
| `gate` | compare int8 with fp32; keep nodes in fp32 until int8 passes |
| `calibration` | run the graph on all texts, fit temperatures |
| `scope` | choose a method, fit thresholds |
| (`latency`, `quality`) | measure latency and accuracy of both precisions |
| `golden` | choose golden sentences |
| `report` | after the files are hashed and the `Manifest` is built: model card, table, line of JSON |

`migrate` and `push` are commands of their own: one rewrites student folders of older releases, and their graphs with
`text_axis`, the other publishes a student folder on the Hugging Face hub.

Every graph is run through `service.student.predictor.Predictor`.
"""
