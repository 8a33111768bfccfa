"""Turn a checkpoint into a quantised ONNX student folder.

Needs the extra `export`. Imports `training` and `service.student`. The path of an export: `pipeline` calls each row in
turn, and the rows in brackets are modules that it comes back to.

| module | what happens |
|---|---|
| `onnx` | flags to `Options` |
| `pipeline` | load the checkpoint |
| `data` | read labelled text, candidates for golden sentences, out-of-scope text |
| `folder` | make a temporary folder, which is renamed at the end |
| `trimming` | with `--locales`: a smaller vocabulary |
| `graph` | the fp32 graph |
| `quantization` | the plain int8 graph |
| `latency` | the faster kernels |
| `quality` | compare fp32 with PyTorch |
| (`quantization`) | with `--max-drop`: keep nodes in fp32 until int8 passes |
| `calibration` | run the graph on all texts, fit temperatures |
| `scope` | choose a method, fit thresholds, write the graph that is served |
| (`latency`, `quality`, `folder`) | latency and accuracy of both precisions, golden sentences |
| `report` | with files hashed and the one `Manifest` built: the model card, a table, a line of JSON |

Every reading of a graph goes through `service.student.predictor.Predictor`.
"""
