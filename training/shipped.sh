# Train and export the shipped student: two and a half hours on two cores. Usage: sh training/shipped.sh MASSIVE GENERIC OUT
# MASSIVE: a source that --data takes. GENERIC: a folder of plain sentences, one a line, GENERIC/<language>/<source>.txt.gz
# (Tatoeba, Common Voice, XED and voice prompts; docs/notices/s.md says where they come from).
set -eu
massive=$1 generic=$2 out=$3
python=${BIN:-.venv/bin}/python
locales=de-DE,fr-FR,it-IT,es-ES,en-US
related=ca-ES,pt-PT,ro-RO,nl-NL,da-DK,sv-SE,nb-NO,af-ZA
corpus=
for language in de fr it es en; do
    for source in tatoeba common_voice xed voice_prompts; do
        corpus="$corpus${corpus:+,}$generic/$language/$source.txt.gz"
    done
done
finetune() {
    "$python" -m training.finetune --data "$massive" --locales "$locales" --size s "$@"
}

# Two teachers from labelled text alone, in related languages first
finetune --extra-locales "$related" --epochs 20 --out "$out/s"
finetune --init "$out/s" --epochs 8 --learning-rate 5e-4 --out "$out/s2"
# A third that has read plain sentences, from which the student starts
"$python" -m training.pretrain --corpus "$corpus" --data "$massive" --locales "$locales" --tokenizer-lines 150000 \
    --size s --out "$out/p"
finetune --init "$out/p" --epochs 14 --learning-rate 5e-4 --out "$out/f"
finetune --init "$out/f" --epochs 20 --learning-rate 1e-3 --augmented-share 0.3 --out "$out/f2"
# The student imitates the three
finetune --init "$out/f2" --teacher "$out/s,$out/s2,$out/f2" --epochs 10 --learning-rate 7e-4 --augmented-share 0.3 \
    --average 0.998 --out "$out/k"
"$python" -m export.onnx --ckpt "$out/k" --out "$out/students/s" --eval "$massive" --notice docs/notices/s.md
