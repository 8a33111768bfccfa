"""Which parts of distillation help on which data: search over pipelines, report on its trials, recommendation.

After Distiller and AutoDistiller (He et al. 2021). Commands, above all layers of the package.
"""
