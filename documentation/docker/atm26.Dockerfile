# A container for ATM'26, track 1, from the repository's top folder, with a model folder of nnU-Net in model/:
#   docker build -t airways_atm26 -f documentation/docker/atm26.Dockerfile .
# CUDA 11.8, since the drivers of the organisers' platform go no further than CUDA 12.0.
FROM python:3.12-slim
RUN pip install --no-cache-dir torch==2.7.1 torchvision==0.22.1 --index-url https://download.pytorch.org/whl/cu118
COPY setup.py README.md LICENSE /src/
COPY nnunetv2_airway /src/nnunetv2_airway
COPY results_templates /src/results_templates
RUN pip install --no-cache-dir /src && useradd --create-home user
COPY model /model
LABEL org.grand-challenge.api-method="exec" org.atm26.batch="1"
USER user
ENTRYPOINT ["nnUNetv2_airway_challenge", "-m", "/model", "-device", "cuda"]
