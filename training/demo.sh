# Train, export and query a tiny student on the sample data. Usage: sh training/demo.sh FOLDER
set -eu
out=$1
rm -rf "$out"
"${BIN:-.venv/bin}/python" -m training.finetune --data training/sample --size xs --epochs 40 --learning-rate 0.003 --batch-size 32 --out "$out/checkpoint"
"${BIN:-.venv/bin}/python" -m export.onnx --ckpt "$out/checkpoint" --out "$out/students/demo"
"${BIN:-.venv/bin}/python" -m service.ask --student "$out/students/demo" --locale de-DE "weck mich am freitag um neun uhr auf" "Wie wird das Wetter morgen?"
