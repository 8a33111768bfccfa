# Train and export the shipped student, about an hour on two cores. Usage: sh training/shipped.sh MASSIVE GENERIC OUT
# MASSIVE: a source that --data takes. GENERIC: a folder of plain sentences, one a line, GENERIC/<language>/<source>.txt.gz
# (Tatoeba, Common Voice, XED and voice prompts; docs/notices/s.md says where they come from).
set -eu
massive=$1 generic=$2 out=$3
python=${BIN:-.venv/bin}/python
locales=de-DE,fr-FR,it-IT,es-ES,en-US
corpus=
for language in de fr it es en; do
    for source in tatoeba common_voice xed voice_prompts; do
        corpus="$corpus${corpus:+,}$generic/$language/$source.txt.gz"
    done
done
"$python" -m training.pretrain --corpus "$corpus" --data "$massive" --locales "$locales" \
    --tokenizer-lines 150000 --out "$out/pretrained"
"$python" -m training.finetune --init "$out/pretrained" --data "$massive" --locales "$locales" \
    --epochs 14 --learning-rate 5e-4 --out "$out/first"
"$python" -m training.finetune --init "$out/first" --data "$massive" --locales "$locales" \
    --epochs 20 --learning-rate 1e-3 --augmented-share 0.3 --out "$out/checkpoint"
"$python" -m export.onnx --ckpt "$out/checkpoint" --out "$out/students/s" --eval "$massive" --notice docs/notices/s.md
