# Train and export the shipped student. Usage: BIN=.venv/bin sh training/shipped.sh MASSIVE GENERIC OUT
# MASSIVE: a source that --data takes. GENERIC: a folder of plain sentences, GENERIC/<language>/<source>.txt.gz.
set -eu
massive=$1 generic=$2 out=$3
locales=de-DE,fr-FR,it-IT,es-ES,en-US
corpus=
for language in de fr it es en; do
    for source in tatoeba common_voice xed voice_prompts; do
        corpus="$corpus${corpus:+,}$generic/$language/$source.txt.gz"
    done
done
"$BIN/python" -m training.pretrain --corpus "$corpus" --data "$massive" --locales "$locales" \
    --tokenizer-lines 150000 --size s --out "$out/pretrained"
"$BIN/python" -m training.finetune --init "$out/pretrained" --data "$massive" --locales "$locales" \
    --size s --epochs 12 --out "$out/checkpoint"
"$BIN/python" -m export.onnx --ckpt "$out/checkpoint" --out "$out/students/s" --eval "$massive" \
    --notice docs/notices/massive.md
